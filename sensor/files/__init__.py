"""File events: what sandboxes do to the files that rules name, by fanotify marks on those alone."""
