"""What tests of several folders share: engines, proxies, programs, causes, soaks."""
