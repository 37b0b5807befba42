//! The unmodified core against a seeded world in virtual time.
