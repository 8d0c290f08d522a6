-- The first answer to a write that carried an idempotency key, stored in the write's own transaction.
CREATE TABLE IF NOT EXISTS idempotency (
    -- SHA-256 over user and key.
    key_hash    BINARY(32)  NOT NULL PRIMARY KEY,
    -- SHA-256 over what was asked: the same key with another request is refused.
    fingerprint BINARY(32)  NOT NULL,
    answer      MEDIUMTEXT  NULL,
    created_at  DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
    KEY idempotency_created_at (created_at)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_0900_ai_ci;

-- Keys that all nodes' apps must share: what one node signed, another has to accept.
CREATE TABLE IF NOT EXISTS site_keys (
    name  VARCHAR(40)   NOT NULL PRIMARY KEY,
    value VARBINARY(64) NOT NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_0900_ai_ci;
