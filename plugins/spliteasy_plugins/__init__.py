"""The codecs that come with spliteasy, one family a file, each found through the entry points `spliteasy.codecs`."""
