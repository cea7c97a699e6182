"""How it runs on more than one machine, and what that takes; see README.md here."""
