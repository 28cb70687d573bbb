"""`refseg predict`: masks for phrases, in images, folders and videos."""
