//! Images and registries that mean harm: whatever they hold, nothing outside the container directory changes.
