"""``fedmq provision``: a federation's identities and keys, in one folder. Nobody runs openssl by hand."""
