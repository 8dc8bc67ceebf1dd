"""One storage for many machines: who does what (leases), and what is finished (objects by content, manifests last)."""
