//! Wire types of the network: subjects, identifiers, versioned messages and their codecs.
