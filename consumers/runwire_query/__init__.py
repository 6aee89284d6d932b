"""The read side for people: it reads the documented views (`v_...`), never base tables."""
