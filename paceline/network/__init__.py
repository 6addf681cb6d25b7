"""How nodes reach each other: signed requests, streams of frames, and blobs by hash, over HTTP."""
