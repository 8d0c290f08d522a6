use super::*;

fn through(filter: &mut Filter, text: &str) -> String {
    let mut out = Vec::new();
    for line in text.split_inclusive('\n') {
        let mut line = line.as_bytes().to_vec();
        filter.line(&mut line);
        out.extend(line);
    }
    String::from_utf8(out).unwrap()
}

#[test]
fn definers_are_taken_out_of_views_triggers_routines_and_events() {
    let dump = "\
/*!50001 CREATE ALGORITHM=UNDEFINED */\n\
/*!50013 DEFINER=`a``b`@`%` SQL SECURITY DEFINER */\n\
DELIMITER ;;\n\
/*!50003 CREATE*/ /*!50017 DEFINER=`root`@`localhost`*/ /*!50003 TRIGGER `t` BEFORE INSERT ON `x` FOR EACH ROW SET @a=1 */;;\n\
DELIMITER ;\n\
DELIMITER ;;\n\
CREATE DEFINER=`root`@`localhost` PROCEDURE `p`()\n\
SET @s = 'x\n\
CREATE DEFINER=`kept`@`%` PROCEDURE q()' ;;\n\
DELIMITER ;\n\
DELIMITER ;;\n\
/*!50003 SET time_zone             = 'SYSTEM' */ ;;\n\
/*!50106 CREATE*/ /*!50117 DEFINER=`root`@`localhost`*/ /*!50106 EVENT `e` ON SCHEDULE EVERY 1 DAY STARTS '2026-01-01 00:00:00' ON COMPLETION NOT PRESERVE ENABLE DO SET @a=1 */ ;;\n\
DELIMITER ;\n";
    let expected = "\
/*!50001 CREATE ALGORITHM=UNDEFINED */\n\
/*!50013 SQL SECURITY DEFINER */\n\
DELIMITER ;;\n\
/*!50003 CREATE*/ /*!50003 TRIGGER `t` BEFORE INSERT ON `x` FOR EACH ROW SET @a=1 */;;\n\
DELIMITER ;\n\
DELIMITER ;;\n\
CREATE PROCEDURE `p`()\n\
SET @s = 'x\n\
CREATE DEFINER=`kept`@`%` PROCEDURE q()' ;;\n\
DELIMITER ;\n\
DELIMITER ;;\n\
/*!50003 SET time_zone             = 'SYSTEM' */ ;;\n\
/*!50106 CREATE*/ /*!50106 EVENT `e` ON SCHEDULE EVERY 1 DAY STARTS '2026-01-01 00:00:00' ON COMPLETION NOT PRESERVE ENABLE DO SET @a=1 */ ;;\n\
DELIMITER ;\n";
    assert_eq!(through(&mut Filter { drop_definers: true, ..Filter::default() }, dump), expected);
    assert_eq!(through(&mut Filter::default(), dump), dump, "unless it is asked for, nothing is changed");
}

#[test]
fn events_are_disabled_and_keep_their_definers() {
    let dump = "DELIMITER ;;\n/*!50106 CREATE*/ /*!50117 DEFINER=`u`@`%`*/ /*!50106 EVENT `e` ON SCHEDULE EVERY 1 DAY ON COMPLETION PRESERVE ENABLE DO SELECT ' PRESERVE ENABLE' */ ;;\n";
    let out = through(&mut Filter { disable_events: true, ..Filter::default() }, dump);
    assert!(out.contains("ON COMPLETION PRESERVE DISABLE ON REPLICA DO SELECT ' PRESERVE ENABLE'"), "{out}");
    assert!(out.contains("DEFINER=`u`@`%`"), "{out}");
}

#[test]
fn data_that_looks_like_a_dump_is_left_alone() {
    let dump = "INSERT INTO `t` VALUES ('/*!50013 DEFINER=`a`@`b` SQL SECURITY DEFINER */\\nDELIMITER ;;\\n'),(1);\nINSERT INTO `t` VALUES (' PRESERVE ENABLE');\n";
    let mut filter = Filter { drop_definers: true, disable_events: true, ..Filter::default() };
    assert_eq!(through(&mut filter, dump), dump);
}

#[test]
fn the_position_is_read_in_both_forms_and_only_once() {
    for words in [
        "REPLICATION SOURCE TO SOURCE_LOG_FILE='binlog.000012', SOURCE_LOG_POS=1390",
        "MASTER TO MASTER_LOG_FILE='binlog.000012', MASTER_LOG_POS=1390",
    ] {
        let mut filter = Filter::default();
        through(
            &mut filter,
            &format!("-- CHANGE {words};\n-- CHANGE MASTER TO MASTER_LOG_FILE='x', MASTER_LOG_POS=1;\n"),
        );
        assert_eq!(filter.position, Some(Position { file: "binlog.000012".into(), offset: 1390 }));
        assert!(!filter.is_whole);
    }
}

#[test]
fn a_dump_is_whole_with_its_last_line() {
    let mut filter = Filter::default();
    through(&mut filter, "-- Dump completed on 2026-01-02  3:04:05\n");
    assert!(filter.is_whole);
}

#[test]
fn modes_that_are_gone_are_left_out() {
    for (mode, expected) in [
        (
            "STRICT_TRANS_TABLES,NO_AUTO_CREATE_USER,NO_ENGINE_SUBSTITUTION",
            "STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION",
        ),
        ("NO_AUTO_CREATE_USER", ""),
        ("ANSI,NO_AUTO_CREATE_USER", "ANSI"),
    ] {
        let line = |mode: &str| format!("/*!50003 SET sql_mode              = '{mode}' */ ;\n");
        assert_eq!(through(&mut Filter::default(), &line(mode)), line(expected));
    }
}

#[test]
fn positions_are_ordered_by_the_number_of_the_file() {
    let at = |file: &str, offset| Position { file: file.into(), offset };
    assert!(at("binlog.000010", 4).reaches(&at("binlog.000009", 500)));
    assert!(at("binlog.1000000", 4).reaches(&at("binlog.999999", 4)));
    assert!(at("binlog.000010", 4).reaches(&at("binlog.000010", 4)));
    assert!(!at("binlog.000009", 500).reaches(&at("binlog.000010", 4)));
    assert!(!at("", 0).reaches(&at("binlog.000001", 4)));
}

#[test]
fn a_body_in_another_character_set_is_changed_as_any_other_and_its_octets_stay() {
    let mut line = b"/*!50106 CREATE*/ /*!50117 DEFINER=`u\xe4`@`%`*/ /*!50106 EVENT `e\xe4` ON SCHEDULE EVERY 1 DAY ON COMPLETION PRESERVE ENABLE DO SELECT '\xe4' */ ;;\n".to_vec();
    let mut filter = Filter { drop_definers: true, disable_events: true, ..Filter::default() };
    filter.line(&mut b"DELIMITER ;;\n".to_vec());
    filter.line(&mut line);
    assert_eq!(
        line,
        b"/*!50106 CREATE*/ /*!50106 EVENT `e\xe4` ON SCHEDULE EVERY 1 DAY ON COMPLETION PRESERVE DISABLE ON REPLICA DO SELECT '\xe4' */ ;;\n"
    );
}

#[test]
fn positions_of_logs_with_other_names_have_no_order() {
    let at = |file: &str, offset| Position { file: file.into(), offset };
    assert!(at("binlog.000010", 4).reaches(&at("binlog.000009", 500)));
    for other in ["mysql-bin.000010", "binlog", "binlog.index", ""] {
        assert!(!at(other, 500).reaches(&at("binlog.000009", 4)), "{other}");
        assert!(!at("binlog.000009", 500).reaches(&at(other, 4)), "{other}");
    }
}

#[test]
fn the_transactions_of_a_dump_are_read_and_its_copy_goes_into_the_binary_log() {
    let dump = "SET @MYSQLDUMP_TEMP_LOG_BIN = @@SESSION.SQL_LOG_BIN;\nSET @@SESSION.SQL_LOG_BIN= 0;\n\n\
        /* SET @@GLOBAL.GTID_PURGED='+3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5,\n4e11fa47-71ca-11e1-9e33-c80aa9429562:tag:7';*/\n\
        CREATE DATABASE `shop`;\nUSE `shop`;\nSET @@SESSION.SQL_LOG_BIN= 0;\n\
        SET @@SESSION.SQL_LOG_BIN = @MYSQLDUMP_TEMP_LOG_BIN;\n";
    let mut filter = Filter::default();
    let out = through(&mut filter, dump);
    assert_eq!(
        filter.gtids.as_deref(),
        Some("3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5,4e11fa47-71ca-11e1-9e33-c80aa9429562:tag:7")
    );
    assert_eq!(out, dump.replacen("SET @@SESSION.SQL_LOG_BIN= 0;\n", "", 1), "a body is left alone");
}
