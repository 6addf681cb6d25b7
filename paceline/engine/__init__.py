"""Who orders blocks. The solo engine is one sequencer with replicas that replay and verify everything it signs."""
