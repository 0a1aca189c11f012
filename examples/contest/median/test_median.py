from jobmanager_grading.unit_tests import SubmissionTest, message, points, visible


class Median(SubmissionTest):
    @visible
    @message("The median of [3, 1, 2] is 2: sort first.")
    def test_three_numbers(self):
        assert self.submission.call("median", [3, 1, 2]) == 2

    @points(3)
    def test_two_numbers(self):
        assert self.submission.call("median", [4, 1]) == 2.5
