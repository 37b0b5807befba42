//! The driver against a foreign EC2.
