// What a regular expression may cost: glibc itself sets no bound.
#pragma once

#include <string>
#include <string_view>

namespace kvshim::text {

/// Why the POSIX extended regular expression could take glibc gigabytes, seconds or a whole
/// stack, in a few words; empty when it can't. Errs on refusing: some harmless ones are refused
/// too, and a "{" that begins no count. Says nothing of other mistakes, which regcomp finds. Its
/// own cost grows with the length alone. Any thread.
std::string excess_in(std::string_view expression);

}  // namespace kvshim::text
