//! The worker side: runs one container on a VM and reports.
