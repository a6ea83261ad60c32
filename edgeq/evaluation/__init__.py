"""Running images through files, here or on a device, and scoring what they predict."""
