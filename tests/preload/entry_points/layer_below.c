/* The second of two libraries that define layered_function; and names that look
   like the driver's, or are. */
int layered_function(void) { return 2; }
int cuMemAlloc_v2(void) { return 7; }
int cudnnCreate(void) { return 8; }
int cuMemAlloc_v2_of_a_stranger(void) { return 9; }
