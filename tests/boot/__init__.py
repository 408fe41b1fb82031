"""What only a booted systemd can show. Not part of CI: ``scripts/test-boot`` runs it, as root."""
