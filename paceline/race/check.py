STUB=1
import hashlib
def check_nonces(c,k,ns): return [hashlib.sha256(c.race_seed+k+n.to_bytes(8,'big')).digest()[0]<5 for n in ns]
