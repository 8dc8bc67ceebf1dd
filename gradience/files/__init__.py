"""Files and folders: read with limits, written whole or not at all, digested, shared without secrets."""
