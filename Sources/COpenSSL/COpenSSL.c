// Everything is inline in the header; a target needs one source file, and this one checks that the header stands alone.
#include "COpenSSL.h"
