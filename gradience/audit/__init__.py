"""An adapter on disk -> its AuditReport: spectra, measures, findings, suggested ranks."""
