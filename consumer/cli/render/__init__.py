"""How executions, plans and problems look. Fed by states and events; knows nothing of Kafka."""
