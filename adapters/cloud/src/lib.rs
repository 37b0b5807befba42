//! The face every cloud driver has, and its error taxonomy.
