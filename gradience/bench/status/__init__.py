"""How far a run is, seen from outside: manifests, leases, failures and logs, and nothing of them touched."""
