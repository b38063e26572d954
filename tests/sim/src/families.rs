//! The clients in the field.
