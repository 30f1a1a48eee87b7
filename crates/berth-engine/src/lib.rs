//! What a user can ask for: containers, images, volumes, networks, events
