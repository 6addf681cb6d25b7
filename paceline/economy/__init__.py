"""Integer money: supply, issuance, prices of work and how one fee is shared. No state, no floats, no clock."""
