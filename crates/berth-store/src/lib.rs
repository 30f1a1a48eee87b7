//! Durable records, transactions, migrations
