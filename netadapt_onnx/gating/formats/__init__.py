"""The results of `gate` in the formats that CI systems read. Every name that a model brings is escaped first."""
