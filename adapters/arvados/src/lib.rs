//! Client of the containers API, and the cluster configuration file.
