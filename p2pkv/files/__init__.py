"""Files and folders as records and chunks. `service.Files` is the entrance."""
