"""What a model costs: counted (`cost`), timed (`timing`), and predicted from a latency table (`table`)."""
