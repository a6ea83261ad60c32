"""Bundles: one model as several files, with a manifest that says how outputs of one part feed the next."""
