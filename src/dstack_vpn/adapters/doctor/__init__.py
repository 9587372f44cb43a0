"""What `dstack-vpn doctor` looks at, from outside of the daemon, changing nothing."""
