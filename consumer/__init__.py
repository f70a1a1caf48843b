"""The WPK agent: takes commands from Kafka, runs workflow packages, tells on Kafka what happened."""
