"""Judges: calls each kind's check, weighs the evidence, forms Verdicts. Knows thresholds; owns no socket and no ledger."""
