"""Durable engines that a team might take instead, on the same work beside the agent."""
