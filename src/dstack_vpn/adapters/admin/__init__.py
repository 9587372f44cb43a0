"""The chain access of the administrative commands: reads of the registry, and transactions.

The daemon loads none of this. `endpoints` finds an endpoint that serves, `reading` reads the
registry, `signer` holds the key, `fees` and `transactions` get a transaction mined, and `registry`
has one method for each operation of the commands. `device` reads a WireGuard device without
changing it.
"""
