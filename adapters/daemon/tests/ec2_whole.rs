//! The whole program on EC2, with an emulator for the cloud and a real sshd for each instance.
