//! Sockets: sealed datagrams, mutual-TLS peer connections, the client of the server, link and address changes.
