"""What `gate` found, in the formats that CI systems read. Every name that a model brings is made harmless first."""
