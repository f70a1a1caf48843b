"""From bytes to accepted commands: the only consumer of the command topics. Nothing slow happens here."""
