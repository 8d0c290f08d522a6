SET SQL_LOG_BIN = 0;
SET GLOBAL super_read_only = OFF;
CREATE USER IF NOT EXISTS 'trivet-keeper'@'localhost' IDENTIFIED WITH auth_socket;
GRANT ALL ON *.* TO 'trivet-keeper'@'localhost' WITH GRANT OPTION;
ALTER USER 'root'@'localhost' IDENTIFIED WITH auth_socket;
SET GLOBAL super_read_only = ON;
