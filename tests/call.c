/* call ABI NUMBER [ARG...]: makes one system call through the ABI x86_64, x32 or i386 (of any other machine: native), and
 * prints what the kernel returned: a value, or a negative errno. An ARG is a number, @TEXT (a pointer to it) or % (a pointer
 * to 4096 zero bytes, which are printed after the value if it is positive). tests/seccomp.rs runs it inside containers. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Static, so that their addresses fit in 32 bits, as i386's pointers must. */
static char texts[6][4096];

int main(int argc, char **argv)
{
	long args[6] = {0}, result;
	const char *shown = NULL;
	if (argc < 3)
		return 2;
	for (int i = 3; i < argc && i < 9; i++) {
		char *text = texts[i - 3];
		if (argv[i][0] == '@')
			args[i - 3] = (long)strncpy(text, argv[i] + 1, 4095);
		else if (argv[i][0] == '%')
			args[i - 3] = (long)(shown = text);
		else
			args[i - 3] = (long)strtoull(argv[i], NULL, 0);
	}
	long number = strtol(argv[2], NULL, 0);
#ifdef __x86_64__
	if (!strcmp(argv[1], "i386")) {
		register long r8 __asm__("r8") = 0;
		__asm__ volatile("int $0x80"
				 : "=a"(result), "+r"(r8)
				 : "a"(number), "b"(args[0]), "c"(args[1]), "d"(args[2]), "S"(args[3]), "D"(args[4])
				 : "memory", "r9", "r10", "r11");
		result = (int)result;
	} else
#endif
	{
		if (!strcmp(argv[1], "x32"))
			number |= 0x40000000;
		result = syscall(number, args[0], args[1], args[2], args[3], args[4], args[5]);
		if (result == -1)
			result = -errno;
	}
	printf("%ld%s%s\n", result, shown && result > 0 ? " " : "", shown && result > 0 ? shown : "");
	return 0;
}
