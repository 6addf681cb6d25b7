"""The Race: search for hits of a challenge, claim them, check those of others. Knows no ledger, no peer, no clock."""
