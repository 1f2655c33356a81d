//! Test machinery: real servers on private ports and laboratories of network namespaces.
