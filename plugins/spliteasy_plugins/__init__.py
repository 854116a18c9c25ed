"""The codecs that come with spliteasy, one family a file; each arrives through the entry-point group `spliteasy.codecs`."""
