import unittest

from lab import rootfs


class Mirror(unittest.TestCase):
    def test_debian_itself_is_chosen_not_its_security_archive_nor_another_vendor(self):
        listed = ("http://mirror.test/debian-security/|main|Debian-Security\n"
                  "http://vendor.test/debian/|main|Vendor\n"
                  "http://mirror.test/debian/|contrib|Debian\n"
                  "http://mirror.test/debian/|main|Debian\n")
        self.assertEqual(rootfs.choose_mirror(listed), "http://mirror.test/debian")

    def test_before_apt_get_update_the_path_tells(self):
        listed = "http://mirror.test/debian-security/|main|\nhttps://mirror.test/debian/|main|\n"
        self.assertEqual(rootfs.choose_mirror(listed), "https://mirror.test/debian")

    def test_the_recipe_decides_the_cache_key(self):
        before = rootfs.digest()
        rootfs.PACKAGES.append("another")
        try:
            self.assertNotEqual(rootfs.digest(), before)
        finally:
            rootfs.PACKAGES.remove("another")
