"""A rank for every module: criteria, modules, allocation. The audit's suggestions are plans."""
