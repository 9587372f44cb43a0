"""The administrative commands' work on the chain: read the registry once, and send transactions.

Nothing here is loaded by the daemon. `endpoints` finds an endpoint that serves, `reading` reads, `signer`
holds the key, `fees` and `transactions` get a transaction mined, and `registry` is what the commands use:
one method for each thing that can be done. `device` reads a WireGuard device without touching it.
"""
