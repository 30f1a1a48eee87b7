//! Networks, addresses, published ports, firewall
